"""The files of a bucket, one kind a module, as doc/format.md says."""
