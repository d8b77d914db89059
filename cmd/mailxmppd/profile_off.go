//go:build !profile

package main

// startProfile does nothing in an ordinary build.
func startProfile() (stop func()) { return func() {} }
