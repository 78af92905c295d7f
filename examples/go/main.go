// An answer over server-sent events, with Go's standard library: go run main.go "What is the capital of Italy?"
package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/url"
	"os"
	"strings"
)

// Answer is what a request, or an event, may hold.
type Answer struct {
	Token string
	Text  string
	Error *struct{ Message string }
}

func main() {
	prompt := "What is the capital of Italy?"
	if len(os.Args) > 1 {
		prompt = os.Args[1]
	}
	server := os.Getenv("LLMAPI_KIT_URL")
	token, err := getToken(server, os.Getenv("LLMAPI_KIT_API_KEY"))
	if err == nil {
		err = listen(server, token, prompt, os.Stdout)
	}
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println()
}

// getToken asks for a short-lived token, with the key.
func getToken(server, key string) (string, error) {
	request, err := http.NewRequest(http.MethodPost, server+"/chat-sse/token", nil)
	if err != nil {
		return "", err
	}
	request.Header.Set("Authorization", "Bearer "+key)
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	answer, err := decode(response.Body)
	return answer.Token, err
}

// listen writes the pieces of an answer as they come.
func listen(server, token, prompt string, out io.Writer) error {
	query := url.Values{"prompt": {prompt}, "token": {token}}
	response, err := http.Get(server + "/chat-sse?" + query.Encode())
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		_, err := decode(response.Body)
		return err
	}
	event := ""
	lines := bufio.NewScanner(response.Body)
	for lines.Scan() {
		name, value, _ := strings.Cut(lines.Text(), ": ")
		switch {
		case name == "event":
			event = value
		case name == "data" && event == "end":
			return nil
		case name == "data":
			answer, err := decode(strings.NewReader(value))
			if err != nil {
				return err
			}
			fmt.Fprint(out, answer.Text)
		case name == "": // the end of an event, or a comment that keeps the connection open
			event = ""
		}
	}
	if err := lines.Err(); err != nil {
		return err
	}
	return errors.New("the stream broke off")
}

// decode reads an answer; one that is an error is given as such.
func decode(body io.Reader) (Answer, error) {
	var answer Answer
	if err := json.NewDecoder(body).Decode(&answer); err != nil {
		return answer, err
	}
	if answer.Error != nil {
		return answer, errors.New(answer.Error.Message)
	}
	return answer, nil
}
