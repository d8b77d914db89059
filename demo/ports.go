package demo

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
)

// Ports are taken below every common ephemeral range: while a gateway is
// stopped its ports must stay free, and a dialler's own end must not land on
// one of them (a dial to a closed loopback port of the ephemeral range can even
// connect to itself).
const (
	lowestPort  = 10240
	highestPort = 32767
	portTries   = 200
)

// listen binds a free loopback port, for TCP and, with udp set, for UDP too.
func listen(udp bool) (net.Listener, net.PacketConn, error) {
	var last error
	for range portTries {
		addr := loopback(lowestPort + rand.IntN(highestPort-lowestPort+1))
		ln, err := net.Listen("tcp", addr)
		if err != nil {
			last = err
			continue
		}
		if !udp {
			return ln, nil, nil
		}
		pc, err := net.ListenPacket("udp", addr)
		if err == nil {
			return ln, pc, nil
		}
		last = err
		ln.Close()
	}
	return nil, nil, fmt.Errorf("no free loopback port: %w", last)
}

// freeAddresses returns n loopback addresses that nobody listens on. They are
// bound all at once, so that no two are alike, and released for the gateways.
func freeAddresses(n int) ([]string, error) {
	addrs, held := make([]string, 0, n), make([]net.Listener, 0, n)
	var failed error
	for range n {
		ln, _, err := listen(false)
		if err != nil {
			failed = err
			break
		}
		addrs, held = append(addrs, ln.Addr().String()), append(held, ln)
	}
	for _, ln := range held {
		failed = errors.Join(failed, ln.Close())
	}
	return addrs, failed
}

func loopback(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }

// portOf returns the port of an address of ours.
func portOf(addr string) uint16 {
	_, port, _ := net.SplitHostPort(addr)
	n, _ := strconv.ParseUint(port, 10, 16)
	return uint16(n)
}
