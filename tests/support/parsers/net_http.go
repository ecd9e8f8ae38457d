// Go's net/http: tells in X-Seen what it made of each request.
package main

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"net/http"
	"os"
)

func tell(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		http.Error(w, "cut", http.StatusBadRequest)
		return
	}
	digest := sha256.Sum256(body)
	seen, _ := json.Marshal(map[string]any{
		"method": r.Method, "host": r.Host, "target": r.RequestURI, "path": r.URL.EscapedPath(),
		"length": len(body), "digest": hex.EncodeToString(digest[:]),
	})
	w.Header().Set("X-Seen", string(seen))
	w.Header().Set("Content-Length", "0")
}

func main() {
	panic(http.ListenAndServe("127.0.0.1:"+os.Args[1], http.HandlerFunc(tell)))
}
