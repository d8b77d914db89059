package proof

import (
	"bytes"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"testing"
	"time"

	"mailxmppd/dns"
)

func record(usage, selector, matching uint8, c *issued) dns.TLSA {
	data := c.cert.Raw
	if selector == selectorSPKI {
		data = c.cert.RawSubjectPublicKeyInfo
	}
	switch matching {
	case matchSHA256:
		s := sha256.Sum256(data)
		data = s[:]
	case matchSHA512:
		s := sha512.Sum512(data)
		data = s[:]
	}
	return dns.TLSA{Usage: usage, Selector: selector, Matching: matching, Data: data}
}

// TestUsages: every usage with every selector and matching, for certificates
// that it is and is not about.
func TestUsages(t *testing.T) {
	root := authority(t, nil)
	middle := authority(t, root)
	leaf := sign(t, template(t, "montague.example"), newKey(t), middle)
	hosted := sign(t, template(t, "xmpp.hoster.example"), newKey(t), middle)
	foreign := sign(t, template(t, "mallory.example"), newKey(t), middle)
	twin := sign(t, template(t, "montague.example"), newKey(t), middle)
	late := template(t, "montague.example")
	late.NotBefore, late.NotAfter = time.Now().Add(-2*time.Hour), time.Now().Add(-time.Hour)
	expired := sign(t, late, newKey(t), middle)
	clientOnly := template(t, "montague.example")
	clientOnly.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	client := sign(t, clientOnly, newKey(t), middle)

	srvTemplate, foreignSRV := template(t), template(t)
	srvTemplate.ExtraExtensions = srvName(t, "_xmpp-server.montague.example")
	foreignSRV.ExtraExtensions = srvName(t, "_xmpp-server.mallory.example")
	bySRV, bySRVForeign := sign(t, srvTemplate, newKey(t), middle), sign(t, foreignSRV, newKey(t), middle)

	stranger := authority(t, nil)
	private := sign(t, template(t, "montague.example"), newKey(t), stranger)
	// The issuer leaves itself out of what it shows.
	bare := &issued{cert: private.cert, key: private.key, chain: private.chain[:1]}

	for _, c := range []struct {
		name     string
		usage    uint8
		of       *issued
		shown    *issued
		dialled  bool
		want     bool
		fullOnly bool // only the whole certificate in the record will do
	}{
		{name: "DANE-EE", usage: usageDANEEE, of: leaf, shown: leaf, want: true},
		{name: "DANE-EE, another name", usage: usageDANEEE, of: foreign, shown: foreign, want: true},
		{name: "DANE-EE, expired", usage: usageDANEEE, of: expired, shown: expired, want: true},
		{name: "DANE-EE, another certificate", usage: usageDANEEE, of: twin, shown: leaf},
		{name: "DANE-EE of the issuer", usage: usageDANEEE, of: middle, shown: leaf},
		{name: "DANE-TA, issuer shown", usage: usageDANETA, of: stranger, shown: private, want: true},
		{name: "DANE-TA, middle of the chain", usage: usageDANETA, of: middle, shown: leaf, want: true},
		{name: "DANE-TA, root of the chain", usage: usageDANETA, of: root, shown: leaf, want: true},
		{name: "DANE-TA, host's name", usage: usageDANETA, of: middle, shown: hosted, want: true},
		{name: "DANE-TA, SRVName", usage: usageDANETA, of: middle, shown: bySRV, want: true},
		{name: "DANE-TA, SRVName of another", usage: usageDANETA, of: middle, shown: bySRVForeign},
		{name: "PKIX-TA, SRVName", usage: usagePKIXTA, of: root, shown: bySRV, want: true},
		{name: "PKIX-EE, SRVName", usage: usagePKIXEE, of: bySRV, shown: bySRV, want: true},
		{name: "DANE-TA, another name", usage: usageDANETA, of: middle, shown: foreign},
		{name: "DANE-TA, expired", usage: usageDANETA, of: middle, shown: expired},
		{name: "DANE-TA, issuer of another", usage: usageDANETA, of: stranger, shown: leaf},
		{name: "DANE-TA, issuer not shown", usage: usageDANETA, of: stranger, shown: bare, want: true, fullOnly: true},
		{name: "DANE-TA, clientAuth only, accepted", usage: usageDANETA, of: middle, shown: client, want: true},
		{name: "DANE-TA, clientAuth only, dialled", usage: usageDANETA, of: middle, shown: client, dialled: true},
		{name: "PKIX-EE", usage: usagePKIXEE, of: hosted, shown: hosted, want: true},
		{name: "PKIX-EE, another certificate", usage: usagePKIXEE, of: twin, shown: leaf},
		{name: "PKIX-EE, no chain to a root", usage: usagePKIXEE, of: private, shown: private},
		{name: "PKIX-EE, another name", usage: usagePKIXEE, of: foreign, shown: foreign},
		{name: "PKIX-EE, expired", usage: usagePKIXEE, of: expired, shown: expired},
		{name: "PKIX-TA", usage: usagePKIXTA, of: middle, shown: hosted, want: true},
		{name: "PKIX-TA of the root", usage: usagePKIXTA, of: root, shown: hosted, want: true},
		{name: "PKIX-TA of the leaf", usage: usagePKIXTA, of: hosted, shown: hosted},
		{name: "PKIX-TA, another authority", usage: usagePKIXTA, of: stranger, shown: hosted},
		{name: "PKIX-TA, no chain to a root", usage: usagePKIXTA, of: stranger, shown: private},
		{name: "PKIX-TA, another name", usage: usagePKIXTA, of: middle, shown: foreign},
	} {
		for selector := uint8(0); selector <= selectorSPKI; selector++ {
			for matching := uint8(0); matching <= matchSHA512; matching++ {
				j := &judgement{certs: c.shown.chain, roots: root.pool(), now: time.Now(), accepted: !c.dialled, chains: maxChains}
				records := usableTLSA([]dns.TLSA{record(c.usage, selector, matching, c.of)})
				if len(records) != 1 {
					t.Fatal("record counts as unusable")
				}
				want := c.want && (!c.fullOnly || selector == selectorCert && matching == matchFull)
				err := j.match(records, "montague.example", "xmpp.hoster.example")
				if (err == nil) != want {
					t.Errorf("%s %d %d %d: %v", c.name, c.usage, selector, matching, err)
				}
				// What is altered proves nothing.
				records[0].Data = bytes.Clone(records[0].Data)
				records[0].Data[len(records[0].Data)/2] ^= 1
				if err := j.match(records, "montague.example", "xmpp.hoster.example"); err == nil {
					t.Errorf("%s %d %d %d: altered and taken", c.name, c.usage, selector, matching)
				}
			}
		}
	}
}

// srvName is a critical extension with an SRVName (RFC 4985) alone.
func srvName(t *testing.T, name string) []pkix.Extension {
	t.Helper()
	must := func(b []byte, err error) []byte {
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	value := must(asn1.MarshalWithParams(name, "ia5"))
	id := must(asn1.Marshal(asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 8, 7}))
	inner := must(asn1.Marshal(asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 0, IsCompound: true, Bytes: value}))
	other := must(asn1.Marshal(asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 0, IsCompound: true, Bytes: append(id, inner...)}))
	whole := must(asn1.Marshal(asn1.RawValue{Tag: asn1.TagSequence, IsCompound: true, Bytes: other}))
	return []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 17}, Critical: true, Value: whole}}
}

func TestUsable(t *testing.T) {
	c := selfSigned(t, "x")
	good := record(usageDANEEE, selectorSPKI, matchSHA256, c)
	for _, bad := range []dns.TLSA{
		{Usage: 4, Selector: 1, Matching: 1, Data: good.Data}, {Usage: 255, Selector: 1, Matching: 1, Data: good.Data},
		{Usage: 3, Selector: 2, Matching: 1, Data: good.Data}, {Usage: 3, Selector: 1, Matching: 3, Data: good.Data},
		{Usage: 3, Selector: 1, Matching: 1, Data: good.Data[1:]}, {Usage: 3, Selector: 1, Matching: 2, Data: good.Data},
		{Usage: 3, Selector: 1, Matching: 0}, {Usage: 3, Selector: 1, Matching: 1},
	} {
		if got := usableTLSA([]dns.TLSA{bad, good}); len(got) != 1 || !bytes.Equal(got[0].Data, good.Data) || got[0].Usage != 3 {
			t.Errorf("%+v: %+v", bad, got)
		}
	}
	// RFC 7671 section 9: a SHA-512 record makes those by SHA-256 of its kind
	// void, not those of another usage.
	strong, kept := record(usageDANEEE, selectorSPKI, matchSHA512, selfSigned(t, "y")), record(usageDANETA, selectorSPKI, matchSHA256, c)
	if got := usableTLSA([]dns.TLSA{good, strong, kept}); len(got) != 2 || got[0].Matching != matchSHA512 || got[1].Usage != usageDANETA {
		t.Errorf("%+v", got)
	}
	var many []dns.TLSA
	for range 3 * maxUsable {
		many = append(many, good)
	}
	if got := usableTLSA(many); len(got) != maxUsable {
		t.Error(len(got), "records kept")
	}
}

// TestChainBudget: a peer cannot make us build chains without end.
func TestChainBudget(t *testing.T) {
	root := authority(t, nil)
	leaf := sign(t, template(t, "mallory.example"), newKey(t), root)
	j := &judgement{certs: leaf.chain, roots: root.pool(), now: time.Now(), accepted: true, chains: maxChains}
	r := []dns.TLSA{record(usageDANETA, selectorSPKI, matchSHA256, root)}
	for i := range maxChains {
		if err := j.match(r, "montague.example", "h.example"); err == nil || errors.Is(err, errChains) {
			t.Fatal(i, err)
		}
	}
	if err := j.match(r, "montague.example", "h.example"); !errors.Is(err, errChains) {
		t.Error(err)
	}
}
