//go:build unix && !linux

package demo

import "syscall"

// childAttributes keeps an interrupt from the keyboard away from the gateways,
// which the demo stops itself and in order.
func childAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true}
}
