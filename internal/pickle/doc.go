// Package pickle takes Python pickles apart: the opcodes of protocols 0 to 5,
// each with the bytes of its argument, and how they move values on the stack
// and the memo. What the values are is up to those who use it. Python's
// pickletools is the source for all of it.
package pickle
