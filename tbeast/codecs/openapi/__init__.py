"""What each port offers over HTTP, as OpenAPI documents and as pages to read."""
