package main

import (
	"fmt"
	"net"
	"strings"

	mdns "github.com/miekg/dns"
)

// deadNames is a name server for which every dN.example has an MX host of its
// own on this machine, where nobody listens: as many destinations as one
// likes, each of them dead.
type deadNames struct {
	addr   string
	closed int // the port on which nobody listens
	server *mdns.Server
	held   net.Listener // keeps the port from others
	done   chan struct{}
}

func serveDeadNames() (*deadNames, error) {
	// Bound to an address that nobody asks for, the port is nobody else's and
	// yet closed at 127.0.0.1.
	held, err := net.Listen("tcp", "127.0.0.2:0")
	if err != nil {
		return nil, err
	}
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		held.Close()
		return nil, err
	}
	up := make(chan struct{})
	n := &deadNames{
		addr: pc.LocalAddr().String(), closed: held.Addr().(*net.TCPAddr).Port, held: held, done: make(chan struct{}),
		server: &mdns.Server{PacketConn: pc, Handler: mdns.HandlerFunc(answerDead), NotifyStartedFunc: func() { close(up) }},
	}
	go func() {
		defer close(n.done)
		n.server.ActivateAndServe()
	}()
	<-up
	return n, nil
}

func (n *deadNames) stop() {
	n.server.Shutdown()
	<-n.done
	n.held.Close()
}

func answerDead(w mdns.ResponseWriter, q *mdns.Msg) {
	m := new(mdns.Msg)
	m.SetReply(q)
	head := mdns.RR_Header{Name: q.Question[0].Name, Rrtype: q.Question[0].Qtype, Class: mdns.ClassINET, Ttl: 3600}
	labels := mdns.CountLabel(head.Name)
	switch host := strings.HasPrefix(strings.ToLower(head.Name), "mx."); {
	case labels == 2 && head.Rrtype == mdns.TypeMX:
		m.Answer = append(m.Answer, &mdns.MX{Hdr: head, Preference: 10, Mx: "mx." + head.Name})
	case labels == 3 && host && head.Rrtype == mdns.TypeA:
		m.Answer = append(m.Answer, &mdns.A{Hdr: head, A: net.IPv4(127, 0, 0, 1)})
	case labels == 2 || labels == 3 && host: // nothing of that type
	default:
		m.Rcode = mdns.RcodeNameError
	}
	w.WriteMsg(m)
}

// deadDomain is the i-th of n such domains.
func deadDomain(i, n int) string { return fmt.Sprintf("d%d.example", i%n) }
