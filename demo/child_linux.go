package demo

import "syscall"

// childAttributes keeps an interrupt from the keyboard away from the gateways,
// which the demo stops itself and in order, and ends them when the demo dies
// without having stopped them.
func childAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
