//go:build !linux

package s3server

import "syscall"

func attributes() *syscall.SysProcAttr { return nil }

func extendedAttributes(string) bool { return false }
