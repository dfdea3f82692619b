package main

import (
	"strings"
	"testing"

	"github.com/alecthomas/kong"
)

func TestTheExamplesOfBenchCanBeTyped(t *testing.T) {
	examples := 0
	for line := range strings.Lines((*benchCmd)(nil).Help()) {
		line, _, _ = strings.Cut(line, "|")
		args := strings.Fields(line)
		if len(args) < 2 || args[0] != "s3storage" {
			continue
		}
		examples++
		var c struct {
			Bench benchCmd `cmd:""`
		}
		parser, err := kong.New(&c, kong.Exit(func(int) { t.Errorf("%q asks for help", line) }))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := parser.Parse(args[1:]); err != nil {
			t.Errorf("%q: %v", line, err)
		}
	}
	if examples < 5 {
		t.Errorf("only %d examples were found", examples)
	}
}
