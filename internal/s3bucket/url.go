package s3bucket

import (
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"

	"s3storage/internal/bucket"
)

// Config says which bucket is meant, and where.
type Config struct {
	Bucket    string
	Prefix    string // of all objects' names, without slashes around; empty for none
	Endpoint  string // URL of the server; empty for Amazon's or what AWS_ENDPOINT_URL_S3 says
	Region    string // empty for what the environment or the AWS configuration says
	PathStyle bool   // bucket in the path, not in the host name

	// Credentials; empty for the AWS SDK's chain: environment, configuration
	// files, web identity, container or instance role.
	AccessKeyID     string
	SecretAccessKey string
}

// errNoURL does not repeat what it is about: that may hold a secret.
var errNoURL = errors.New("not a URL of an S3 bucket: want s3://bucket/prefix?endpoint=...&region=...&path-style=...") //nolint:revive,staticcheck // the dots belong to the example

// ParseURL reads a location such as
//
//	s3://bucket/prefix?endpoint=http://127.0.0.1:9000&region=eu-central-1&path-style=true
//
// of which only the bucket is needed. There is no place for credentials in it,
// so that it may be shown and logged.
func ParseURL(location string) (Config, error) {
	u, err := url.Parse(location)
	if err != nil {
		return Config{}, errNoURL
	}
	if u.User != nil {
		return Config{}, errors.New("credentials do not belong into the URL of a bucket: " + credentialsAdvice)
	}
	if u.Scheme != "s3" || u.Host == "" || u.Opaque != "" || u.Fragment != "" || u.Port() != "" {
		return Config{}, errNoURL
	}
	c := Config{Bucket: u.Host, Prefix: strings.Trim(u.Path, "/")}
	query, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return Config{}, fmt.Errorf("the options in the URL of the bucket cannot be read: %w", err)
	}
	for key, values := range query {
		value := values[len(values)-1]
		switch key {
		case "endpoint":
			c.Endpoint = strings.TrimSuffix(value, "/")
		case "region":
			c.Region = value
		case "path-style":
			if c.PathStyle, err = strconv.ParseBool(value); err != nil {
				return Config{}, fmt.Errorf("path-style is true or false, not %q", value)
			}
		default:
			return Config{}, fmt.Errorf("the URL of an S3 bucket has no option %q: there are endpoint, region and path-style", key)
		}
	}
	return c, c.check()
}

func (c Config) check() error {
	if c.Bucket == "" {
		return errors.New("no bucket is named")
	}
	if c.Prefix != "" {
		if err := bucket.CheckName(c.Prefix); err != nil {
			return fmt.Errorf("prefix of a bucket: %w", err)
		}
	}
	if c.Endpoint == "" {
		return nil
	}
	u, err := url.Parse(c.Endpoint)
	if err == nil && u.User != nil {
		return errors.New("credentials do not belong into the URL of an endpoint: " + credentialsAdvice)
	}
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.RawQuery != "" {
		return errors.New("an endpoint is a URL such as https://s3.example.com:9000")
	}
	return nil
}

// URL returns the location that ParseURL reads, without the credentials.
func (c Config) URL() string {
	u := url.URL{Scheme: "s3", Host: c.Bucket}
	if c.Prefix != "" {
		u.Path = "/" + c.Prefix
	}
	var options []string
	if c.Endpoint != "" {
		options = append(options, "endpoint="+c.Endpoint) // was checked: nothing to escape but in odd paths
	}
	if c.Region != "" {
		options = append(options, "region="+url.QueryEscape(c.Region))
	}
	if c.PathStyle {
		options = append(options, "path-style=true")
	}
	u.RawQuery = strings.Join(options, "&")
	return u.String()
}
