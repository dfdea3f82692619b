package lease

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"
	"github.com/aws/smithy-go"
)

// inSQS is a message in a FIFO queue of Amazon SQS, the token: who has received
// it holds the lease, and keeps it from the eyes of others by asking for more
// time. A queue is for one database.
//
// All messages are of one group. So while one of them is out, SQS gives none to
// anybody, and a queue with several tokens is as good as one: who receives more
// deletes them. That is why an empty queue can be given a token by whoever finds
// it empty, although SQS counts messages only roughly.
//
// A message cannot be out for longer than twelve hours. Before that the holder
// sends another, deletes the old one and receives the new one.
//
// The queue's tags say who received the token last.
//
// When SQS is down, the holder goes on, and nobody takes the lease. When the
// queue was purged, whoever comes first puts a token into it, the holder or a
// candidate.
type inSQS struct {
	Options
	client *sqs.Client
	queue  string // URL
	token  string // the text of a token for this database

	handle   string    // of the token that was received
	received time.Time // when
	expires  time.Time // when others can receive it, if it is not renewed
}

const (
	sqsScheme  = "sqs+"
	sqsGroup   = "lease"
	sqsTag     = "s3storage-" // before node, address, since
	maxOut     = 11 * time.Hour
	maxTag     = 192 // bytes that make a value of 256 in base 64
	maxReceive = 10  // messages at a time, as SQS allows
)

// amazonQueue is the host of a queue at Amazon.
var amazonQueue = regexp.MustCompile(`^sqs\.([a-z0-9-]+)\.amazonaws\.com(\.cn)?$`)

var errForeign = errors.New("the queue has messages that are no tokens of this database; each database needs a queue that nothing else uses")

func newInSQS(ctx context.Context, location string, o Options) (*keeper, error) {
	u, err := url.Parse(strings.TrimPrefix(location, sqsScheme))
	if err != nil || u.Host == "" || u.User != nil || u.RawQuery != "" || !strings.HasSuffix(u.Path, ".fifo") {
		return nil, fmt.Errorf("open the lease: %w; one in Amazon SQS is sqs+ and the URL of a FIFO queue, whose name ends in .fifo", ErrLocation)
	}
	sdk, err := config.LoadDefaultConfig(ctx)
	if err != nil {
		return nil, fmt.Errorf("open the lease: reading the AWS configuration: %w", err)
	}
	l := &inSQS{Options: o, queue: u.String(), token: fmt.Sprintf("s3storage lease of database %x", o.Database)}
	l.client = sqs.NewFromConfig(sdk, func(s *sqs.Options) {
		s.BaseEndpoint = aws.String(u.Scheme + "://" + u.Host)
		if found := amazonQueue.FindStringSubmatch(u.Hostname()); found != nil {
			s.Region = found[1]
		} else if s.Region == "" {
			s.Region = "us-east-1" // what compatible servers expect
		}
		s.Retryer = aws.NopRetryer{} // the keeper asks again
	})
	return &keeper{
		Options: o,
		granter: l,
		poll:    func() time.Duration { return o.Timeout / 10 },
		look:    o.Timeout * 3 / 5,
	}, nil
}

func (l *inSQS) String() string { return "token in " + l.queue }

// seconds that a token is out, from when it was received or renewed.
func (l *inSQS) seconds() int32 { return int32((l.Timeout + time.Second - 1) / time.Second) }

// receive takes the token if it is there, or comes within that time.
func (l *inSQS) receive(ctx context.Context, wait time.Duration) (got bool, err error) {
	answer, err := l.client.ReceiveMessage(ctx, &sqs.ReceiveMessageInput{
		QueueUrl:            &l.queue,
		MaxNumberOfMessages: maxReceive,
		VisibilityTimeout:   l.seconds(),
		WaitTimeSeconds:     int32(wait / time.Second),
	})
	if err != nil || len(answer.Messages) == 0 {
		return false, err
	}
	for _, m := range answer.Messages {
		if aws.ToString(m.Body) != l.token {
			for _, m := range answer.Messages {
				err = errors.Join(err, l.hide(ctx, aws.ToString(m.ReceiptHandle), 0))
			}
			return false, errors.Join(errForeign, err)
		}
	}
	for _, surplus := range answer.Messages[1:] {
		// If that fails, the next to receive it deletes it.
		_, _ = l.client.DeleteMessage(ctx, &sqs.DeleteMessageInput{QueueUrl: &l.queue, ReceiptHandle: surplus.ReceiptHandle})
	}
	l.handle, l.received = aws.ToString(answer.Messages[0].ReceiptHandle), time.Now()
	l.renewed()
	return true, nil
}

// renewed notes that the token is out from now on.
func (l *inSQS) renewed() { l.expires = time.Now().Add(time.Duration(l.seconds()) * time.Second) }

// hide keeps a message that was received from others for so many seconds.
func (l *inSQS) hide(ctx context.Context, handle string, seconds int32) error {
	_, err := l.client.ChangeMessageVisibility(ctx, &sqs.ChangeMessageVisibilityInput{
		QueueUrl: &l.queue, ReceiptHandle: &handle, VisibilityTimeout: seconds})
	return err
}

func (l *inSQS) send(ctx context.Context) error {
	// SQS drops what has the same id within five minutes.
	_, err := l.client.SendMessage(ctx, &sqs.SendMessageInput{
		QueueUrl: &l.queue, MessageBody: &l.token,
		MessageGroupId: aws.String(sqsGroup), MessageDeduplicationId: aws.String(fmt.Sprintf("%x", nonce()))})
	return err
}

// count tells how many messages there are to be received, and how many are out;
// roughly.
func (l *inSQS) count(ctx context.Context) (here, out string, err error) {
	answer, err := l.client.GetQueueAttributes(ctx, &sqs.GetQueueAttributesInput{QueueUrl: &l.queue, AttributeNames: []types.QueueAttributeName{
		types.QueueAttributeNameApproximateNumberOfMessages, types.QueueAttributeNameApproximateNumberOfMessagesNotVisible}})
	if err != nil {
		return "", "", err
	}
	return answer.Attributes["ApproximateNumberOfMessages"], answer.Attributes["ApproximateNumberOfMessagesNotVisible"], nil
}

// get receives the token. It puts one into an empty queue first. If it does not
// get it, out tells whether it seems that another node has it.
func (l *inSQS) get(ctx context.Context, wait time.Duration) (got, out bool, err error) {
	if got, err = l.receive(ctx, wait); got || err != nil {
		return got, false, err
	}
	here, away, err := l.count(ctx)
	if err != nil || here != "0" || away != "0" {
		return false, away != "0", err
	}
	if err := l.send(ctx); err != nil {
		return false, false, err
	}
	got, err = l.receive(ctx, 0)
	return got, false, err
}

func (l *inSQS) take(ctx context.Context) (got bool, err error) {
	if got, _, err = l.get(ctx, min(l.Timeout/2, 2*time.Second)); !got {
		return false, err
	}
	_, err = l.client.TagQueue(ctx, &sqs.TagQueueInput{QueueUrl: &l.queue, Tags: map[string]string{
		sqsTag + "node":    toTag(l.Node),
		sqsTag + "address": toTag(l.Address),
		sqsTag + "since":   l.received.UTC().Format(time.RFC3339Nano),
	}})
	if err != nil {
		l.Logger.Warn("cannot note who holds the lease", "lease", l.String(), "err", err)
	}
	return true, nil
}

func (l *inSQS) renew(ctx context.Context) (lost bool, err error) {
	if time.Now().Before(l.expires) {
		if time.Since(l.received) > maxOut {
			if err = l.send(ctx); err == nil {
				_, err = l.client.DeleteMessage(ctx, &sqs.DeleteMessageInput{QueueUrl: &l.queue, ReceiptHandle: &l.handle})
			}
		} else if err = l.hide(ctx, l.handle, l.seconds()); err == nil {
			l.renewed()
			return false, nil
		}
		if err != nil && !gone(err) {
			return false, err
		}
	}
	// The token is not out any more, or not with this node. It may be about to
	// come back, as the clocks do not quite agree.
	got, out, err := l.get(ctx, l.Timeout/5)
	return !got && out, err
}

// gone tells of answers that mean that a token is not with this node any more.
func gone(err error) bool {
	return answered(err, "ReceiptHandleIsInvalid", "MessageNotInflight", "InvalidParameterValue")
}

// answered tells whether err is an answer of the server with one of the codes,
// which have different words before and behind.
func answered(err error, codes ...string) bool {
	var answer smithy.APIError
	return errors.As(err, &answer) && slices.ContainsFunc(codes, func(code string) bool {
		return strings.Contains(answer.ErrorCode(), code)
	})
}

func (l *inSQS) free(ctx context.Context) error {
	if !time.Now().Before(l.expires) {
		return nil // by itself, long since
	}
	return l.hide(ctx, l.handle, 0)
}

func (l *inSQS) drop() { l.handle = "" }

func (l *inSQS) holder(ctx context.Context) (h Holder, err error) {
	if _, out, err := l.count(ctx); err != nil || out == "0" {
		return Holder{}, err
	}
	answer, err := l.client.ListQueueTags(ctx, &sqs.ListQueueTagsInput{QueueUrl: &l.queue})
	if err != nil {
		return Holder{}, err
	}
	h.Since, _ = time.Parse(time.RFC3339Nano, answer.Tags[sqsTag+"since"])
	return Holder{fromTag(answer.Tags[sqsTag+"node"]), fromTag(answer.Tags[sqsTag+"address"]), h.Since}, nil
}

// toTag writes a text with the few characters that tags may have.
func toTag(s string) string {
	return base64.StdEncoding.EncodeToString([]byte(s[:min(len(s), maxTag)]))
}

func fromTag(s string) string {
	b, _ := base64.StdEncoding.DecodeString(s)
	return string(b)
}

func (l *inSQS) hopeless(err error) bool {
	return errors.Is(err, errForeign) || answered(err, "AccessDenied", "NonExistentQueue", "QueueDoesNotExist", "InvalidAddress",
		"InvalidClientTokenId", "InvalidAccessKeyId", "UnrecognizedClient", "SignatureDoesNotMatch")
}
