package transfer

import (
	"reflect"
	"strings"
	"testing"
	"time"
)

func discoOf(t *testing.T, c Capabilities) string {
	t.Helper()
	info, err := c.DiscoInfo()
	if err != nil {
		t.Fatal(err)
	}
	return "<query xmlns='" + discoInfo + "'>" + string(info) + "</query>"
}

func TestCapabilitiesRoundTrip(t *testing.T) {
	for _, c := range []Capabilities{Announced(), Unstated(), {
		MaxMessage: 1, MaxChunk: 6000, MaxInline: 0, MaxRecipients: 1, Window: 1, Retain: 8 * 24 * time.Hour,
		Extensions: []string{ExtRequireTLS}, Policy: "enforce", MaxAge: time.Hour, Sends: "xmpp-only",
	}} {
		got, ok := FromDisco(parse(t, discoOf(t, c)))
		if !ok || !reflect.DeepEqual(got, c) {
			t.Errorf("got %+v %v, want %+v", got, ok, c)
		}
	}
}

func TestFromDisco(t *testing.T) {
	whole := discoOf(t, Announced())
	for _, c := range []struct {
		name, old, new string
		has            bool
		want           Capabilities
	}{
		{"as it is", "", "", true, Announced()},
		{"no feature", "<feature var='" + Namespace + "'/>", "", false, Announced()},
		{"other form", "<value>" + Namespace + "</value>", "<value>urn:x</value>", true, Unstated()},
		{"chunk too small", "<value>131072</value>", "<value>5999</value>", true, Unstated()},
		{"not a number", "<value>131072</value>", "<value>lots</value>", true, Unstated()},
		{"memory too short", "<value>604800</value>", "<value>604799</value>", true, Unstated()},
		{"policy unknown", "<value>none</value>", "<value>some</value>", true, Unstated()},
		{"unknown field", "<field var='window'>", "<field var='x'><value>y</value></field><field var='window'>", true, Announced()},
	} {
		got, has := FromDisco(parse(t, strings.Replace(whole, c.old, c.new, 1)))
		if has != c.has || !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: %v %+v", c.name, has, got)
		}
	}
	if _, has := FromDisco(nil); has {
		t.Error("an empty answer shows the feature")
	}
	if _, has := FromDisco(parse(t, "<query xmlns='urn:x'><feature var='"+Namespace+"'/></query>")); has {
		t.Error("another query shows the feature")
	}
}
