package smtpbridge

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"strings"
	"time"
)

// Result types of RFC 8460 section 4.3, as reports name them.
const (
	resultNoSTARTTLS   = "starttls-not-supported"
	resultHostMismatch = "certificate-host-mismatch"
	resultExpired      = "certificate-expired"
	resultNotTrusted   = "certificate-not-trusted"
	resultValidation   = "validation-failure"
	resultTLSAInvalid  = "tlsa-invalid"
	resultDNSSEC       = "dnssec-invalid"
	resultSTSFetch     = "sts-policy-fetch-error"
	resultSTSInvalid   = "sts-policy-invalid"
	resultSTSWebPKI    = "sts-webpki-invalid"
)

// certificateError says exactly what is wrong with a next hop's certificate.
type certificateError struct {
	result string // RFC 8460 section 4.3
	text   string // for the sender of the message too
	err    error  // for the log
}

func (e *certificateError) Error() string { return e.text + ": " + e.err.Error() }

func (e *certificateError) Unwrap() error { return e.err }

// verifyPKIX checks a certificate against roots for a name.
func verifyPKIX(host, name string, roots *x509.CertPool) func(tls.ConnectionState) *certificateError {
	return func(cs tls.ConnectionState) *certificateError {
		if len(cs.PeerCertificates) == 0 {
			return &certificateError{resultValidation, "next hop shows no certificate", errors.New("no certificate")}
		}
		leaf := cs.PeerCertificates[0]
		opts := x509.VerifyOptions{Roots: roots, DNSName: name, Intermediates: x509.NewCertPool()}
		for _, cert := range cs.PeerCertificates[1:] {
			opts.Intermediates.AddCert(cert)
		}
		if _, err := leaf.Verify(opts); err != nil {
			return certificateTrouble(host, leaf, err)
		}
		return nil
	}
}

// certificateTrouble puts into words why a certificate was not taken.
func certificateTrouble(host string, leaf *x509.Certificate, err error) *certificateError {
	if name, ok := errors.AsType[x509.HostnameError](err); ok {
		return &certificateError{resultHostMismatch, fmt.Sprintf("certificate of %s is not for %s but for %s", host, name.Host, namesOf(leaf)), err}
	}
	if invalid, ok := errors.AsType[x509.CertificateInvalidError](err); ok {
		text := fmt.Sprintf("certificate of %s is not valid: %s", host, invalidReason(invalid))
		if invalid.Reason == x509.Expired {
			return &certificateError{resultExpired, text, err}
		}
		return &certificateError{resultNotTrusted, text, err}
	}
	if _, ok := errors.AsType[x509.UnknownAuthorityError](err); ok {
		return &certificateError{resultNotTrusted, fmt.Sprintf("certificate of %s is signed by an unknown authority", host), err}
	}
	return &certificateError{resultValidation, fmt.Sprintf("certificate of %s cannot be verified", host), err}
}

func invalidReason(e x509.CertificateInvalidError) string {
	if e.Reason != x509.Expired {
		return "it breaks a rule of its chain"
	}
	const day = time.DateOnly
	return fmt.Sprintf("its times are %s to %s", e.Cert.NotBefore.UTC().Format(day), e.Cert.NotAfter.UTC().Format(day))
}

// namesOf lists a few of the names that a certificate is for.
func namesOf(cert *x509.Certificate) string {
	const few = 3
	names := cert.DNSNames
	for _, ip := range cert.IPAddresses {
		names = append(names[:len(names):len(names)], ip.String())
	}
	switch {
	case len(names) == 0:
		return "no name"
	case len(names) > few:
		return fmt.Sprintf("%s and %d more", strings.Join(names[:few], ", "), len(names)-few)
	}
	return strings.Join(names, ", ")
}

// describe names a certificate for the log.
func describe(cert *x509.Certificate) string {
	return fmt.Sprintf("for %s, serial %x", namesOf(cert), cert.SerialNumber)
}
