// The same job in Go, as one would write it there with the standard library: whose key, its token bucket and its month,
// the price from memory, a count for the metering into a bounded queue, JSON out; over HTTP and UDP. Prices change
// underneath, as the lab's do.
//
//	priceserver HTTP_PORT UDP_PORT KEYS ASSETS
//
// KEYS and ASSETS are files with a key or an asset on each line. A datagram is KEY|ASSET.
package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"log"
	"math/rand"
	"net"
	"net/http"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

const (
	perSecond  = 1e7
	burst      = 1e7
	ofTheMonth = int64(1e12)
	waiting    = 1 << 16
	ticks      = 800 // a second, over all assets
)

type tick struct {
	value  float64
	source string
	heard  time.Time
}

type account struct {
	id    string
	month atomic.Int64

	lock   sync.Mutex
	tokens float64
	filled time.Time
}

// admit takes a token of the bucket and a place in the month.
func (a *account) admit(now time.Time) bool {
	a.lock.Lock()
	a.tokens += now.Sub(a.filled).Seconds() * perSecond
	if a.tokens > burst {
		a.tokens = burst
	}
	a.filled = now
	admitted := a.tokens >= 1
	if admitted {
		a.tokens--
	}
	a.lock.Unlock()
	return admitted && a.month.Add(1) <= ofTheMonth
}

type used struct {
	key, asset, source, protocol string
	at                           time.Time
}

type reply struct {
	Asset      string  `json:"asset"`
	Price      float64 `json:"price"`
	Timestamp  string  `json:"timestamp"`
	Source     string  `json:"source"`
	Cached     bool    `json:"cached"`
	AgeSeconds float64 `json:"cache_age_seconds"`
	LatencyMS  int     `json:"latency_ms"`
	DurationMS int     `json:"duration_ms"`
}

type oracle struct {
	accounts sync.Map // key: *account
	prices   sync.Map // asset: *tick
	usage    chan used
}

// answer gives the body for one question, or the status that refuses it.
func (o *oracle) answer(key, asset, protocol string) ([]byte, int) {
	now := time.Now()
	found, known := o.accounts.Load(key)
	if !known {
		return nil, http.StatusUnauthorized
	}
	account := found.(*account)
	if !account.admit(now) {
		return nil, http.StatusTooManyRequests
	}
	asset = strings.ToUpper(asset)
	newest, known := o.prices.Load(asset)
	if !known {
		return nil, http.StatusNotFound
	}
	price := newest.(*tick)
	body, err := json.Marshal(reply{
		Asset: asset, Price: price.value, Timestamp: price.heard.UTC().Format(time.RFC3339Nano), Source: price.source,
		Cached: true, AgeSeconds: now.Sub(price.heard).Seconds(),
	})
	if err != nil {
		return nil, http.StatusInternalServerError
	}
	select {
	case o.usage <- used{account.id, asset, price.source, protocol, now}:
	default: // full: the count is lost
	}
	return body, http.StatusOK
}

func (o *oracle) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path != "/price" {
		w.WriteHeader(http.StatusNotFound)
		return
	}
	authorization := r.Header.Get("Authorization")
	if !strings.HasPrefix(authorization, "Bearer ") {
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	body, status := o.answer(authorization[len("Bearer "):], r.URL.Query().Get("asset"), "http")
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	w.Write(body)
}

func (o *oracle) datagrams(conn *net.UDPConn) {
	question := make([]byte, 2048)
	for {
		length, from, err := conn.ReadFromUDPAddrPort(question)
		if err != nil {
			continue
		}
		o.datagram(conn, question[:length], from)
	}
}

func (o *oracle) datagram(conn *net.UDPConn, question []byte, from netip.AddrPort) {
	bar := bytes.IndexByte(question, '|')
	if bar < 0 {
		return
	}
	if body, status := o.answer(string(question[:bar]), string(question[bar+1:]), "udp"); status == http.StatusOK {
		conn.WriteToUDPAddrPort(body, from)
	}
}

// move lets the prices walk.
func (o *oracle) move(assets []string) {
	for range time.Tick(10 * time.Millisecond) {
		for count := 0; count < ticks/100; count++ {
			asset := assets[rand.Intn(len(assets))]
			before, _ := o.prices.Load(asset)
			o.prices.Store(asset, &tick{before.(*tick).value * (1 + (rand.Float64()-0.5)/1e4), "coinbase-ws", time.Now()})
		}
	}
}

// record stands for what writes the usage away; here it costs next to nothing.
func (o *oracle) record() {
	for range o.usage {
	}
}

func lines(path string) []string {
	file, err := os.Open(path)
	if err != nil {
		log.Fatal(err)
	}
	defer file.Close()
	var all []string
	for scanner := bufio.NewScanner(file); scanner.Scan(); {
		all = append(all, scanner.Text())
	}
	return all
}

func main() {
	if len(os.Args) != 5 {
		log.Fatal("usage: priceserver HTTP_PORT UDP_PORT KEYS ASSETS")
	}
	o := &oracle{usage: make(chan used, waiting)}
	for _, key := range lines(os.Args[3]) {
		o.accounts.Store(key, &account{id: key[:10], tokens: burst, filled: time.Now()})
	}
	assets := lines(os.Args[4])
	for place, asset := range assets {
		o.prices.Store(asset, &tick{80000 / float64(place+1), "coinbase-ws", time.Now()})
	}
	go o.move(assets)
	go o.record()
	address, err := net.ResolveUDPAddr("udp", "127.0.0.1:"+os.Args[2])
	if err != nil {
		log.Fatal(err)
	}
	conn, err := net.ListenUDP("udp", address)
	if err != nil {
		log.Fatal(err)
	}
	conn.SetReadBuffer(8 << 20)
	for readers := 0; readers < runtime.GOMAXPROCS(0); readers++ {
		go o.datagrams(conn)
	}
	log.Fatal(http.ListenAndServe("127.0.0.1:"+os.Args[1], o))
}
