package main

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
)

// The peer of the leg benchmark: the least that could carry messages over TLS.
// A frame is a length of 4 octets and the content; each is answered with 8
// octets. No envelope, no hash, no encoding: what is left is TLS, the kernel
// and one copy. How the content is coded is the floor's matter, see floor.go.

// maxFrame bounds a frame, so that a length cannot claim any memory.
const maxFrame = 1 << 20

// coding is what is done to content besides carrying it; nil for nothing.
type coding interface {
	encode(buf, content []byte) ([]byte, error) // appends what a frame has for content
	check(frame []byte) error                   // may use frame's memory
}

// frameBuffer is what both ends read at once: several records.
const frameBuffer = 64 << 10

// serveFrames accepts connections until the listener is closed.
func serveFrames(ln net.Listener, cert *tls.Certificate, c coding) {
	config := framesTLS()
	config.Certificates = []tls.Certificate{*cert}
	for {
		raw, err := ln.Accept()
		if err != nil {
			return
		}
		conn := tls.Server(raw, config)
		go func() {
			defer conn.Close()
			if err := answerFrames(conn, c); err != io.EOF {
				fmt.Fprintln(os.Stderr, "frames:", err)
			}
		}()
	}
}

// framesTLS writes records at full size from the start, as streams do.
func framesTLS() *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS12, DynamicRecordSizingDisabled: true}
}

// answerFrames reads frames and answers them. Answers leave together once
// nothing more has been read ahead, as a good implementation would do.
func answerFrames(conn io.ReadWriter, c coding) error {
	in, out := bufio.NewReaderSize(conn, frameBuffer), bufio.NewWriterSize(conn, frameBuffer)
	var head [4]byte
	var content []byte
	for count := uint64(0); ; count++ {
		if _, err := io.ReadFull(in, head[:]); err != nil {
			return err
		}
		n := int(binary.BigEndian.Uint32(head[:]))
		if n > maxFrame {
			return fmt.Errorf("frame of %d octets", n)
		}
		if cap(content) < n {
			content = make([]byte, n)
		}
		if _, err := io.ReadFull(in, content[:n]); err != nil {
			return err
		}
		if c != nil {
			if err := c.check(content[:n]); err != nil {
				return err
			}
		}
		if _, err := out.Write(binary.BigEndian.AppendUint64(nil, count)); err != nil {
			return err
		}
		if in.Buffered() < len(head) {
			if err := out.Flush(); err != nil {
				return err
			}
		}
	}
}

// framesSender is the connecting end.
type framesSender struct {
	conn    *tls.Conn
	in      *bufio.Reader
	coding  coding
	content []byte // what is sent, if it is coded
	frame   []byte // to send
	count   uint64 // answers read
}

func dialFrames(addr, domain string, roots *x509.CertPool, c coding) (*framesSender, error) {
	config := framesTLS()
	config.RootCAs, config.ServerName = roots, domain
	conn, err := tls.Dial("tcp", addr, config)
	if err != nil {
		return nil, err
	}
	return &framesSender{conn: conn, coding: c, in: bufio.NewReaderSize(conn, frameBuffer)}, nil
}

func (f *framesSender) tls() string { return tlsName(f.conn.ConnectionState()) }

func (f *framesSender) close() { f.conn.Close() }

func (f *framesSender) load(size int) error {
	f.content = legContent(size)
	f.frame = append(binary.BigEndian.AppendUint32(nil, uint32(size)), f.content...)
	return nil
}

// next makes the frame to send, anew if it is coded: a gateway has each
// content once.
func (f *framesSender) next() (err error) {
	if f.coding == nil {
		return nil
	}
	if f.frame, err = f.coding.encode(f.frame[:4], f.content); err == nil {
		binary.BigEndian.PutUint32(f.frame, uint32(len(f.frame)-4))
	}
	return err
}

// send sends frames, so many in flight at once, and waits for their answers.
func (f *framesSender) send(p LegLoad) error {
	free, gone := make(chan struct{}, p.InFlight), make(chan struct{})
	written := make(chan error, 1)
	go func() { written <- f.write(p, free, gone) }()
	err := f.read(p.Messages, free)
	if err != nil {
		f.conn.Close() // for the writer's sake
	}
	close(gone)
	return errors.Join(err, <-written)
}

func (f *framesSender) write(p LegLoad, free chan<- struct{}, gone <-chan struct{}) error {
	for range p.Messages {
		select {
		case free <- struct{}{}:
		case <-gone:
			return nil
		}
		err := f.next()
		if err == nil {
			_, err = f.conn.Write(f.frame)
		}
		if err != nil {
			f.conn.Close() // for the reader's sake
			return err
		}
	}
	return nil
}

func (f *framesSender) read(n int, free <-chan struct{}) error {
	var answer [8]byte
	for range n {
		if _, err := io.ReadFull(f.in, answer[:]); err != nil {
			return err
		}
		if got := binary.BigEndian.Uint64(answer[:]); got != f.count {
			return fmt.Errorf("answer %d where %d was due", got, f.count)
		}
		f.count++
		<-free
	}
	return nil
}
