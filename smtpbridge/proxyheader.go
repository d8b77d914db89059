package smtpbridge

import (
	"encoding/binary"
	"errors"
	"io"
	"net/netip"
	"strconv"
	"strings"
)

// proxyHeader is what a PROXY header tells: the client's address and the one
// that it connected to. Both are invalid where the proxy speaks for itself or
// does not know.
type proxyHeader struct{ source, destination netip.AddrPort }

var errProxyHeader = errors.New("malformed PROXY header")

// Sizes of the PROXY protocol's specification (haproxy's proxy-protocol.txt,
// sections 2.1 and 2.2).
const (
	proxySignature = "\r\n\r\n\x00\r\nQUIT\n"
	maxProxyLine   = 107
	maxProxyV2     = 4096 // ours: addresses take at most 216, extensions the rest
)

// readProxyHeader reads a header of version 1 or 2 and not an octet more: what
// follows may be TLS.
func readProxyHeader(r io.Reader) (proxyHeader, error) {
	start := make([]byte, len(proxySignature), maxProxyLine) // shorter than any header
	if _, err := io.ReadFull(r, start); err != nil {
		return proxyHeader{}, err
	}
	switch {
	case string(start) == proxySignature:
		return readProxyV2(r)
	case strings.HasPrefix(string(start), "PROXY "):
		return readProxyV1(r, start)
	}
	return proxyHeader{}, errProxyHeader
}

// readProxyV1 reads the rest of a line, octet by octet.
func readProxyV1(r io.Reader, line []byte) (proxyHeader, error) {
	var next [1]byte
	for !strings.HasSuffix(string(line), "\n") {
		if len(line) == maxProxyLine {
			return proxyHeader{}, errProxyHeader
		}
		if _, err := io.ReadFull(r, next[:]); err != nil {
			return proxyHeader{}, err
		}
		line = append(line, next[0])
	}
	text, ok := strings.CutSuffix(string(line), "\r\n")
	if !ok {
		return proxyHeader{}, errProxyHeader
	}
	words := strings.Split(text, " ")
	if words[1] == "UNKNOWN" { // whatever follows is to be ignored
		return proxyHeader{}, nil
	}
	if len(words) != 6 || words[1] != "TCP4" && words[1] != "TCP6" {
		return proxyHeader{}, errProxyHeader
	}
	source, ok1 := proxyAddr(words[1], words[2], words[4])
	destination, ok2 := proxyAddr(words[1], words[3], words[5])
	if !ok1 || !ok2 {
		return proxyHeader{}, errProxyHeader
	}
	return proxyHeader{source, destination}, nil
}

func proxyAddr(family, addr, port string) (netip.AddrPort, bool) {
	ip, err := netip.ParseAddr(addr)
	if err != nil || ip.Zone() != "" || ip.Is4() != (family == "TCP4") {
		return netip.AddrPort{}, false
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || strconv.FormatUint(n, 10) != port {
		return netip.AddrPort{}, false
	}
	return plainAddr(netip.AddrPortFrom(ip, uint16(n))), true
}

// readProxyV2 reads what follows the signature.
func readProxyV2(r io.Reader) (proxyHeader, error) {
	var fixed [4]byte
	if _, err := io.ReadFull(r, fixed[:]); err != nil {
		return proxyHeader{}, err
	}
	command, family, size := fixed[0], fixed[1], int(binary.BigEndian.Uint16(fixed[2:]))
	if command>>4 != 2 || command&15 > 1 || size > maxProxyV2 {
		return proxyHeader{}, errProxyHeader
	}
	body := make([]byte, size)
	if _, err := io.ReadFull(r, body); err != nil {
		return proxyHeader{}, err
	}
	if command&15 == 0 { // LOCAL
		return proxyHeader{}, nil
	}
	switch length := 4; family {
	case 0x21: // TCP over IPv6
		length = 16
		fallthrough
	case 0x11: // TCP over IPv4
		if size < 2*length+4 {
			return proxyHeader{}, errProxyHeader
		}
		ports := body[2*length:]
		return proxyHeader{
			proxyAddrV2(body[:length], ports),
			proxyAddrV2(body[length:2*length], ports[2:]),
		}, nil
	case 0x00, 0x31: // unknown, or a local socket
		return proxyHeader{}, nil
	}
	return proxyHeader{}, errProxyHeader
}

func proxyAddrV2(ip, port []byte) netip.AddrPort {
	addr, _ := netip.AddrFromSlice(ip) // 4 or 16 octets
	return plainAddr(netip.AddrPortFrom(addr, binary.BigEndian.Uint16(port)))
}
