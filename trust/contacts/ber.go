package contacts

import "errors"

// Bounds of the BER in a CMS object before anything recursive reads it: real
// ones are some ten levels deep and have some hundred elements, and those that
// programs write as a stream one more for each piece of content.
const (
	maxBERDepth    = 32
	maxBERElements = 20_000
)

var errBER = errors.New("not CMS data, or built to be hard to read")

// checkBER walks BER (X.690 section 8.1) without recursion and refuses what
// would cost a reader more than its size is worth.
func checkBER(data []byte) error {
	var ends []int // where the open elements end; -1: at an end-of-contents mark
	pos := 0
	for n := 0; ; n++ {
		for len(ends) > 0 && ends[len(ends)-1] == pos {
			ends = ends[:len(ends)-1]
		}
		if n > 0 && len(ends) == 0 {
			return nil // what follows the object is the reader's to refuse
		}
		if n > maxBERElements || len(ends) > maxBERDepth || pos+2 > len(data) {
			return errBER
		}
		if data[pos] == 0 && data[pos+1] == 0 && len(ends) > 0 && ends[len(ends)-1] == -1 {
			ends = ends[:len(ends)-1]
			pos += 2
			continue
		}
		tag := data[pos]
		if tag&0x1f == 0x1f {
			return errBER // CMS has no tags beyond 30
		}
		length, size := berLength(data[pos+1:])
		if size == 0 || length == -1 && tag&0x20 == 0 {
			return errBER
		}
		pos += 1 + size
		end := pos + length
		limit := len(data)
		for i := len(ends) - 1; i >= 0; i-- {
			if ends[i] != -1 {
				limit = ends[i]
				break
			}
		}
		switch {
		case length == -1:
			ends = append(ends, -1)
		case end > limit:
			return errBER
		case tag&0x20 != 0:
			ends = append(ends, end)
		default:
			pos = end
		}
	}
}

// berLength reads a length and how many octets it takes; -1 for one that is not
// said, and a size of 0 for one that cannot be.
func berLength(p []byte) (length, size int) {
	first := p[0]
	switch {
	case first < 0x80:
		return int(first), 1
	case first == 0x80:
		return -1, 1
	case first > 0x84 || len(p) < 1+int(first&0x7f):
		return 0, 0
	}
	for _, b := range p[1 : 1+int(first&0x7f)] {
		length = length<<8 | int(b)
	}
	return length, 1 + int(first&0x7f)
}
