"""An HTTP server of an export or a checkpoint: text in, over the interface of text-embeddings-inference.

settings    its options, which are flags
engine      a model, and what reads text for it
batcher     requests to batches, on a thread of its own; no HTTP
service     what all routes share: readiness, permits, batches, metrics
tei, openai, trees     routes and what they take and give
schema      the routes as OpenAPI and as a page
errors      why a request is refused, and what its client is told
metrics     what is counted, for Prometheus
app         the routes as an ASGI application: limits, errors, key, CORS; and the page, the files of ui/
server      processes and signals
protocol    connections, with limits on slow clients
"""
