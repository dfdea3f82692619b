package main

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/youmark/pkcs8"
)

const maxPEM = 4 << 20 // bytes of a file of keys or certificates

// readBounded reads a file that cannot be long.
func readBounded(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxPEM+1))
	if err == nil && len(text) > maxPEM {
		err = fmt.Errorf("%s is longer than %d bytes: this is no file of certificates, keys or passwords", path, maxPEM)
	}
	return text, err
}

// loadKeyPair reads a certificate and its key, for which there is a password
// unless passwordFile is "".
func loadKeyPair(certFile, keyFile, passwordFile string) (tls.Certificate, error) {
	cert, err := readBounded(certFile)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("--tls-cert: %w", err)
	}
	key, err := loadKey(keyFile, passwordFile)
	if err != nil {
		return tls.Certificate{}, err
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		err = fmt.Errorf("--tls-cert %s and --tls-key %s: %w", certFile, keyFile, err)
	}
	return pair, err
}

// loadKey returns the first private key of a file, as PEM without encryption.
func loadKey(file, passwordFile string) ([]byte, error) {
	rest, err := readBounded(file)
	if err != nil {
		return nil, fmt.Errorf("--tls-key: %w", err)
	}
	for {
		var block *pem.Block
		block, rest = pem.Decode(rest)
		if block == nil {
			return nil, fmt.Errorf("--tls-key: there is no private key in %s: it must be in PEM format", file)
		}
		if !strings.HasSuffix(block.Type, "PRIVATE KEY") {
			continue
		}
		decrypt := decrypter(block)
		if decrypt == nil {
			return pem.EncodeToMemory(block), nil
		}
		if passwordFile == "" {
			return nil, fmt.Errorf("--tls-key: the key in %s is encrypted: give --tls-key-password-file", file)
		}
		text, err := readBounded(passwordFile)
		if err != nil {
			return nil, fmt.Errorf("--tls-key-password-file: %w", err)
		}
		password, _, _ := bytes.Cut(text, []byte("\n"))
		der, err := decrypt(bytes.TrimSuffix(password, []byte("\r")))
		if err != nil {
			return nil, fmt.Errorf("the password in %s does not open the key in %s: %w", passwordFile, file, err)
		}
		return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
	}
}

// decrypter returns what decrypts the key in a block, which has PKCS#8 form then,
// or nil if the key is not encrypted.
func decrypter(block *pem.Block) func(password []byte) ([]byte, error) {
	switch {
	case block.Type == "ENCRYPTED PRIVATE KEY": // what openssl writes
		return func(password []byte) ([]byte, error) {
			key, err := pkcs8.ParsePKCS8PrivateKey(block.Bytes, password)
			if err != nil {
				return nil, err
			}
			return x509.MarshalPKCS8PrivateKey(key)
		}
	case x509.IsEncryptedPEMBlock(block): //nolint:staticcheck // deprecated, for it cannot tell a wrong password for sure; but keys of many years are encrypted so
		return func(password []byte) ([]byte, error) {
			der, err := x509.DecryptPEMBlock(block, password) //nolint:staticcheck // as above
			if err != nil {
				return nil, err
			}
			return asPKCS8(der)
		}
	}
	return nil
}

// asPKCS8 brings a key of any of the old forms into the new one. It fails on
// what a wrong password makes of a key.
func asPKCS8(der []byte) ([]byte, error) {
	if key, err := x509.ParsePKCS1PrivateKey(der); err == nil {
		return x509.MarshalPKCS8PrivateKey(key)
	}
	if key, err := x509.ParseECPrivateKey(der); err == nil {
		return x509.MarshalPKCS8PrivateKey(key)
	}
	return nil, errors.New("what was decrypted is no RSA or EC key")
}

// loadAuthorities reads the certificates of a file, or of those files of a
// directory that hold any.
func loadAuthorities(path string) ([]*x509.Certificate, error) {
	files := []string{path}
	if info, err := os.Stat(path); err != nil {
		return nil, err
	} else if info.IsDir() {
		entries, err := os.ReadDir(path)
		if err != nil {
			return nil, err
		}
		files = nil
		for _, e := range entries {
			file := filepath.Join(path, e.Name())
			// Names may be links, as openssl rehash makes them.
			if info, err := os.Stat(file); err == nil && info.Mode().IsRegular() {
				files = append(files, file)
			}
		}
	}
	var all []*x509.Certificate
	for _, file := range files {
		rest, err := readBounded(file)
		if err != nil {
			return nil, err
		}
		for {
			var block *pem.Block
			if block, rest = pem.Decode(rest); block == nil {
				break
			}
			switch block.Type {
			case "CERTIFICATE":
				c, err := x509.ParseCertificate(block.Bytes)
				if err != nil {
					return nil, fmt.Errorf("a certificate in %s: %w", file, err)
				}
				all = append(all, c)
			case "X509 CRL":
				return nil, fmt.Errorf("%s holds a revocation list, which this server cannot go by: take it out, and trust the certificates of clients instead of their authority's", file)
			}
		}
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("there are no certificates in %s: they must be in PEM format", path)
	}
	return all, nil
}
