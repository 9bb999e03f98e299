"""Load on a daemon by rising concurrency, over HTTP and UDP; a client, which knows no more of it than its address."""
