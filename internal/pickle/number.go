package pickle

import (
	"math/big"
	"slices"
)

// Integer reads the argument of LONG1 and LONG4: two's complement, least byte
// first.
func Integer(arg []byte) *big.Int {
	b := slices.Clone(arg)
	slices.Reverse(b)
	n := new(big.Int).SetBytes(b)
	if len(b) > 0 && b[0] >= 0x80 {
		n.Sub(n, new(big.Int).Lsh(big.NewInt(1), uint(8*len(b))))
	}
	return n
}
