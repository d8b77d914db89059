package sqlite

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"mailxmppd/store"
)

// How often the write-ahead log's size is looked at: after so many groups, or so
// much content.
const (
	logCheckGroups = 64
	logCheckOctets = 1 << 20
)

// shortCheck is the time between two emptyings for want of room.
const shortCheck = time.Second

// keepLogSmall empties the write-ahead log when readers that follow each
// other without a gap have kept SQLite from starting it anew, since it would
// grow for as long as they do. It runs on the writer's goroutine.
//
// On a disk with little room the log is not let grow beyond what is left, since
// the database may have to grow by as much to take it over: a log that has taken
// all room can never be emptied. Where others have taken it, SQLite would not
// look at the log before the next commit, of which there is none: so it is
// emptied here as far as that goes.
func (s *Store) keepLogSmall() {
	short := s.writer.short.Load() && time.Since(s.emptied) > shortCheck
	if s.groups++; s.groups < logCheckGroups && s.writer.octets < logCheckOctets && !short {
		return
	}
	s.groups, s.writer.octets = 0, 0
	if s.backups.Load() > 0 {
		return
	}
	info, err := os.Stat(s.path + "-wal")
	if err != nil || info.Size() <= min(s.maxLog, s.roomLeft()) && !short {
		return
	}
	if short {
		s.writer.short.Store(false)
		s.emptied = time.Now()
	}
	s.gate.Lock()
	defer s.gate.Unlock()
	if err := s.writer.c.pragma("wal_checkpoint(TRUNCATE)"); err != nil {
		s.log.Warn("write-ahead log cannot be emptied", "err", err)
	}
}

// What new mail leaves for the end of the mail that is there: were all room
// taken, no delivery could be claimed or settled, and none would ever come back.
// Pages of the database that are free count as room, but for the log there must
// be some on the disk.
const (
	reserve    = 4 << 20
	logReserve = 1 << 20
)

// takesMore refuses new mail where that would go to the reserve, and has the
// writer see to the log's share of the disk.
func (s *Store) takesMore() error {
	left := s.roomLeft()
	if left >= reserve {
		return nil
	}
	var free int64
	s.writer.short.Store(true)
	err := s.writer.do(context.Background(), lazy, 0, func(c *conn) error {
		r, err := c.first("PRAGMA freelist_count")
		if err == nil {
			free = r.int(0) * pageSize
		}
		return err
	})
	if err == nil && (left < logReserve || left+free < reserve) {
		err = fmt.Errorf("%w: %d octets are left on its disk and %d in its file; the last %d are kept for the mail that is there", store.ErrFull, left, free, reserve)
	}
	return err
}

// roomLeft is how many octets the store's disk has left; as good as no limit
// where the system does not say.
func (s *Store) roomLeft() int64 {
	var fs syscall.Statfs_t
	if err := syscall.Statfs(filepath.Dir(s.path), &fs); err != nil {
		return maxLog
	}
	return int64(min(uint64(fs.Bavail), maxLog) * uint64(fs.Bsize))
}
