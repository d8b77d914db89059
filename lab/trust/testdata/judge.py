# Judges messages with dkimpy and reverse-paths with pyspf. Reads one JSON
# object from stdin and writes one to stdout; DNS is the "zone" in it.
import base64
import json
import socket
import sys

import dkim
import spf

work = json.load(sys.stdin)
zone = {name.lower(): records for name, records in work["zone"].items()}


def text(name, timeout=5):
    if isinstance(name, bytes):
        name = name.decode("ascii")
    found = [v for t, v in zone.get(name.lower().rstrip("."), []) if t == "TXT"]
    return found[0].encode("latin-1") if found else None


def lookup(name, qtype, strict=True, timeout=None, level=0):
    for kind, value in zone.get(name.lower().rstrip("."), []):
        if kind == "FAIL":
            raise spf.TempError("DNS fails")
        if kind != qtype:
            continue
        if kind == "TXT":
            value = (value.encode("latin-1"),)
        elif kind == "AAAA":
            value = socket.inet_pton(socket.AF_INET6, value)
        elif kind == "MX":
            value = (10, value)
        yield ((name, kind), value)


spf.DNSLookup = lookup


def signatures(message):
    out = []
    d = dkim.DKIM(message)
    for n, _ in enumerate([h for h, _ in d.headers if h.lower() == b"dkim-signature"]):
        try:
            out.append("pass" if dkim.DKIM(message).verify(idx=n, dnsfunc=text) else "fail")
        except dkim.DKIMException as e:
            out.append("error: " + str(e))
    return out


def chain(message):
    cv, _, _ = dkim.arc_verify(message, dnsfunc=text)
    return cv.decode("ascii") if cv else "fail"


def seal(job):
    set_ = dkim.arc_sign(
        base64.b64decode(job["message"]), job["selector"].encode(), job["domain"].encode(),
        job["key"].encode(), job["authserv"].encode(), timestamp=job["time"])
    return base64.b64encode(b"".join(set_)).decode()


def sign(job):
    sig = dkim.sign(
        base64.b64decode(job["message"]), job["selector"].encode(), job["domain"].encode(), job["key"].encode(),
        canonicalize=(job["header"].encode(), job["body"].encode()), signature_algorithm=job["algorithm"].encode())
    return base64.b64encode(sig).decode()


messages = [base64.b64decode(m) for m in work.get("messages") or []]
json.dump({
    "signatures": [signatures(m) for m in messages],
    "chains": [chain(m) for m in messages] if work.get("arc") else [],
    "senders": [spf.check2(i=s["client"], s=s["sender"], h=s["helo"])[0] for s in work.get("senders") or []],
    "seals": [seal(j) for j in work.get("seal") or []],
    "signed": [sign(j) for j in work.get("sign") or []],
}, sys.stdout)
