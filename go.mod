module s3storage

go 1.26
