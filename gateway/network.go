package gateway

import (
	"context"
	"net"
	"slices"
	"strings"
	"time"
)

// networkEvery is how often our own addresses are looked at. Asking costs one
// system call; being told would cost a socket for each kind of system.
const networkEvery = 30 * time.Second

// watchNetwork calls changed when this machine's addresses or default routes are
// others than before: a machine that comes back from sleep or moves to another network should
// not wait for what could not be reached from where it was.
func watchNetwork(ctx context.Context, addrs func() ([]net.Addr, error), routes func() string, changed func()) {
	ticker := time.NewTicker(networkEvery)
	defer ticker.Stop()
	last, known := networkNow(addrs)
	way := routes()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		now, ok := networkNow(addrs)
		// Without a default route nothing more can be reached than before.
		rerouted := routes()
		if ok && known && now != "" && (now != last || rerouted != way && rerouted != "") {
			changed()
		}
		way = rerouted
		if ok {
			last, known = now, true
		}
	}
}

// networkNow names the addresses by which others can be reached: loopback and
// link-local ones come and go without a network.
func networkNow(addrs func() ([]net.Addr, error)) (string, bool) {
	list, err := addrs()
	if err != nil {
		return "", false
	}
	var names []string
	for _, a := range list {
		if ip, ok := a.(*net.IPNet); ok && ip.IP.IsGlobalUnicast() {
			names = append(names, a.String())
		}
	}
	slices.Sort(names)
	return strings.Join(names, " "), true
}

// networkChanged gives destinations that could not be reached another chance, and
// makes due what waits for them.
func (g *Gateway) networkChanged() {
	due := g.sched.reviveAll()
	g.Log.Info("network changed", "released", len(due))
	for _, destination := range due {
		if g.sched.isStopping() {
			return
		}
		g.sched.release(destination, "network changed, waiting mail released")
	}
}
