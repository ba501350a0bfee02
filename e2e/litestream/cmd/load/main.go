// A writer of SQLite for the benchmark beside Litestream: records of the sizes that the redb benchmark writes, one commit each.
//
// It prints a line of JSON: how long each commit took, and when the last one returned.
package main

import (
	"database/sql"
	"encoding/json"
	"flag"
	"log"
	"math/rand/v2"
	"os"
	"sort"
	"time"

	_ "github.com/mattn/go-sqlite3"
)

func main() {
	path := flag.String("database", "", "the SQLite file")
	records := flag.Int("records", 500, "how many records, one commit each")
	pause := flag.Duration("pause", 0, "time between commits")
	flag.Parse()

	// What Litestream asks of an application, and durable commits as the redb side has them.
	db, err := sql.Open("sqlite3", *path+"?_journal_mode=WAL&_synchronous=FULL&_busy_timeout=5000")
	check(err)
	db.SetMaxOpenConns(1)
	_, err = db.Exec("CREATE TABLE IF NOT EXISTS records (id INTEGER PRIMARY KEY, value BLOB); CREATE TABLE IF NOT EXISTS audit (id INTEGER PRIMARY KEY, line BLOB)")
	check(err)

	random := rand.New(rand.NewChaCha8([32]byte{7}))
	took := make([]float64, 0, *records)
	payload := 0
	for id := range *records {
		value := noise(random, 5000+random.IntN(5000))
		audit := noise(random, 60)
		payload += len(value) + len(audit)
		started := time.Now()
		transaction, err := db.Begin()
		check(err)
		_, err = transaction.Exec("INSERT INTO records VALUES (?, ?)", id, value)
		check(err)
		_, err = transaction.Exec("INSERT INTO audit VALUES (?, ?)", id, audit)
		check(err)
		check(transaction.Commit())
		took = append(took, time.Since(started).Seconds()*1000)
		time.Sleep(*pause)
	}
	last := time.Now()
	check(db.Close())
	sort.Float64s(took)
	check(json.NewEncoder(os.Stdout).Encode(map[string]any{
		"records": *records, "payload_bytes": payload, "last_commit_unix_ms": last.UnixMilli(),
		"commit_p50_ms": took[len(took)/2], "commit_p99_ms": took[len(took)*99/100],
	}))
}

func noise(random *rand.Rand, length int) []byte {
	bytes := make([]byte, length)
	for i := range bytes {
		bytes[i] = byte(random.Uint32())
	}
	return bytes
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
