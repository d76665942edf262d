// Go's gorilla/websocket: `gorilla [-certificate FILE -key FILE] [-deflate]`, says `listening on PORT`.
//
// `/echo` and `/idle` echo; what arrives at `/publish/T` goes to everybody at `/subscribe/T`.
package main

import (
	"bytes"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"

	"github.com/gorilla/websocket"
)

// topic is a set of subscribers. A subscriber is written to by its topic alone, under the lock.
type topic struct {
	sync.Mutex
	subscribers map[*websocket.Conn]struct{}
}

var (
	topics     = map[string]*topic{}
	topicsLock sync.Mutex
	upgrader   = websocket.Upgrader{
		// Buffers are borrowed for a write, so that an idle connection has none.
		WriteBufferPool: &sync.Pool{},
		ReadBufferSize:  4096,
		WriteBufferSize: 4096,
		CheckOrigin:     func(*http.Request) bool { return true },
	}
)

func topicOf(path string) *topic {
	topicsLock.Lock()
	defer topicsLock.Unlock()
	name := path[strings.LastIndexByte(path, '/')+1:]
	if topics[name] == nil {
		topics[name] = &topic{subscribers: map[*websocket.Conn]struct{}{}}
	}
	return topics[name]
}

// readAll calls received for each message, whose bytes are lent, until the connection ends.
func readAll(connection *websocket.Conn, received func(kind int, message []byte) error) {
	var message bytes.Buffer
	for {
		kind, reader, err := connection.NextReader()
		if err != nil {
			return
		}
		message.Reset()
		if _, err = io.Copy(&message, reader); err != nil {
			return
		}
		if received(kind, message.Bytes()) != nil {
			return
		}
	}
}

func serve(response http.ResponseWriter, request *http.Request) {
	connection, err := upgrader.Upgrade(response, request, nil)
	if err != nil {
		return
	}
	defer connection.Close()
	switch path := request.URL.Path; {
	case strings.HasPrefix(path, "/subscribe/"):
		topic := topicOf(path)
		topic.Lock()
		topic.subscribers[connection] = struct{}{}
		topic.Unlock()
		readAll(connection, func(int, []byte) error { return nil })
		topic.Lock()
		delete(topic.subscribers, connection)
		topic.Unlock()
	case strings.HasPrefix(path, "/publish/"):
		topic := topicOf(path)
		readAll(connection, func(kind int, message []byte) error {
			// Framed, and compressed, once for all. It keeps the bytes.
			prepared, err := websocket.NewPreparedMessage(kind, append([]byte(nil), message...))
			if err != nil {
				return err
			}
			topic.Lock()
			defer topic.Unlock()
			for subscriber := range topic.subscribers {
				// One that fails ends itself: its read fails as well.
				_ = subscriber.WritePreparedMessage(prepared)
			}
			return nil
		})
	default:
		readAll(connection, connection.WriteMessage)
	}
}

func main() {
	certificate := flag.String("certificate", "", "the chain, in PEM form; TLS is spoken with it")
	key := flag.String("key", "", "the certificate's key")
	// The library knows no context takeover, and its level is 1.
	flag.BoolVar(&upgrader.EnableCompression, "deflate", false, "agree to permessage-deflate")
	flag.Parse()

	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Fprintf(os.Stdout, "listening on %d\n", listener.Addr().(*net.TCPAddr).Port)
	// A connection that ends during its handshake is no news.
	server := &http.Server{Handler: http.HandlerFunc(serve), ErrorLog: log.New(io.Discard, "", 0)}
	if *certificate != "" {
		err = server.ServeTLS(listener, *certificate, *key)
	} else {
		err = server.Serve(listener)
	}
	log.Fatal(err)
}
