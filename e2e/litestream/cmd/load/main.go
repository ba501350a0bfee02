// A writer of SQLite for the benchmark beside Litestream: it commits the records of a file that the redb side commits too.
//
// Each line of standard input is a number of commits; after them it answers with a line of JSON: how long each commit took,
// in milliseconds, and when the last one returned, in microseconds since the Unix epoch.
package main

import (
	"bufio"
	"database/sql"
	"encoding/binary"
	"encoding/json"
	"flag"
	"io"
	"log"
	"os"
	"strconv"
	"time"

	_ "github.com/mattn/go-sqlite3"
)

func main() {
	path := flag.String("database", "", "the SQLite file")
	workload := flag.String("workload", "", "the records: for each commit two values, each after its length in four bytes, little-endian")
	flag.Parse()

	file, err := os.Open(*workload)
	check(err)
	records := bufio.NewReader(file)
	// What Litestream asks of an application, and durable commits as the redb side has them.
	db, err := sql.Open("sqlite3", *path+"?_journal_mode=WAL&_synchronous=FULL&_busy_timeout=5000")
	check(err)
	db.SetMaxOpenConns(1)
	_, err = db.Exec("CREATE TABLE IF NOT EXISTS records (id INTEGER PRIMARY KEY, value BLOB); CREATE TABLE IF NOT EXISTS audit (id INTEGER PRIMARY KEY, line BLOB)")
	check(err)

	id, answers := 0, json.NewEncoder(os.Stdout)
	orders := bufio.NewScanner(os.Stdin)
	for orders.Scan() {
		commits, err := strconv.Atoi(orders.Text())
		check(err)
		took, last := make([]float64, 0, commits), time.Time{}
		for range commits {
			record, audit := value(records), value(records)
			started := time.Now()
			transaction, err := db.Begin()
			check(err)
			_, err = transaction.Exec("INSERT INTO records VALUES (?, ?)", id, record)
			check(err)
			_, err = transaction.Exec("INSERT INTO audit VALUES (?, ?)", id, audit)
			check(err)
			check(transaction.Commit())
			last = time.Now()
			took = append(took, last.Sub(started).Seconds()*1000)
			id++
		}
		check(answers.Encode(map[string]any{"commit_ms": took, "last_commit_unix_us": last.UnixMicro()}))
	}
	check(orders.Err())
	check(db.Close())
}

func value(records io.Reader) []byte {
	var length uint32
	check(binary.Read(records, binary.LittleEndian, &length))
	bytes := make([]byte, length)
	_, err := io.ReadFull(records, bytes)
	check(err)
	return bytes
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
