package main

import (
	"context"
	"encoding/binary"
	"errors"
	"net/http"
	"sync"
	"time"

	"github.com/open-telemetry/opamp-go/protobufs"
	"github.com/open-telemetry/opamp-go/server/types"
)

// A peer that stops reading blocks a write for this long, then loses the connection.
const writeTimeout = 10 * time.Second

var errPolling = errors.New("the agent polls over HTTP: nothing can be pushed")

// link is one connection. Every frame of a WebSocket goes out through it, answers included, so that frames never mix
// and leave in the order in which they were decided.
type link struct {
	id      int
	polling bool
	headers http.Header
	conn    types.Connection
	writing sync.Mutex
}

func (l *link) send(message *protobufs.ServerToAgent) error {
	if l.polling {
		return errPolling
	}
	l.writing.Lock()
	defer l.writing.Unlock()
	if err := l.conn.Connection().SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
		return err
	}
	return l.conn.Send(context.Background(), message)
}

// sendRaw writes one finished, unmasked WebSocket frame around any bytes: opamp-go has no door for that, the
// connection underneath has.
func (l *link) sendRaw(opcode byte, payload []byte) error {
	if l.polling {
		return errPolling
	}
	const final = 0x80
	frame := []byte{final | opcode&0x0f}
	switch size := len(payload); {
	case size < 126:
		frame = append(frame, byte(size))
	case size <= 0xffff:
		frame = binary.BigEndian.AppendUint16(append(frame, 126), uint16(size))
	default:
		frame = binary.BigEndian.AppendUint64(append(frame, 127), uint64(size))
	}
	l.writing.Lock()
	defer l.writing.Unlock()
	conn := l.conn.Connection()
	if err := conn.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
		return err
	}
	_, err := conn.Write(append(frame, payload...))
	return err
}

// refuse closes the connection for policy reasons, after it was made.
func (l *link) refuse() {
	const closeFrame, policyViolation = 8, 1008
	payload := append(binary.BigEndian.AppendUint16(nil, policyViolation), "token not valid"...)
	_ = l.sendRaw(closeFrame, payload)
}
