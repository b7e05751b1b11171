// Command etcd runs one member of etcd with its defaults: the flags say where.
package main

import (
	"flag"
	"log"
	"net/url"
	"os"
	"os/signal"
	"syscall"

	"go.etcd.io/etcd/server/v3/embed"
)

func main() {
	config := embed.NewConfig()
	client := flag.String("client", "http://127.0.0.1:2379", "URL for clients")
	peer := flag.String("peer", "http://127.0.0.1:2380", "URL for peers")
	flag.StringVar(&config.Dir, "data-dir", "etcd-data", "folder of the data")
	flag.Parse()

	config.LogLevel = "warn"
	config.ListenClientUrls = []url.URL{parse(*client)}
	config.AdvertiseClientUrls = config.ListenClientUrls
	config.ListenPeerUrls = []url.URL{parse(*peer)}
	config.AdvertisePeerUrls = config.ListenPeerUrls
	config.InitialCluster = config.InitialClusterFromName(config.Name)
	member, err := embed.StartEtcd(config)
	if err != nil {
		log.Fatal(err)
	}
	defer member.Close()

	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)
	select {
	case <-stop:
	case err := <-member.Err():
		log.Fatal(err)
	}
}

func parse(text string) url.URL {
	address, err := url.Parse(text)
	if err != nil {
		log.Fatal(err)
	}
	return *address
}
