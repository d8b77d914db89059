package gateway

import (
	"os"
	"slices"
	"strings"
)

// defaultRoutes names the ways out of this machine's network: the next hops of its
// default routes, and by which interface. A machine may keep its addresses while
// the router behind them becomes another. "" where the system does not tell in this
// form: then the addresses alone are looked at.
func defaultRoutes() string {
	v4, _ := os.ReadFile("/proc/net/route")
	v6, _ := os.ReadFile("/proc/net/ipv6_route")
	return routesIn(string(v4), string(v6))
}

// routesIn reads the kernel's tables (proc_net_route(5) and its like for IPv6).
func routesIn(v4, v6 string) string {
	var out []string
	for line := range strings.Lines(v4) { // interface, destination, gateway, ..., mask the eighth
		if f := strings.Fields(line); len(f) > 7 && f[1] == "00000000" && f[7] == "00000000" {
			out = append(out, f[0]+" "+f[2])
		}
	}
	for line := range strings.Lines(v6) { // destination, its length, ..., next hop the fifth, interface the last
		if f := strings.Fields(line); len(f) > 9 && strings.Trim(f[0], "0") == "" && f[1] == "00" && f[9] != "lo" {
			out = append(out, f[9]+" "+f[4])
		}
	}
	slices.Sort(out)
	return strings.Join(slices.Compact(out), ", ")
}
