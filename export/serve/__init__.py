"""An HTTP server of an export or a checkpoint: text in, over the interface of text-embeddings-inference.

settings    its options, which are flags
engine      a model, and what reads text for it
batcher     requests to batches, on a thread of its own; no HTTP
service     what all routes share: readiness, permits, batches, metrics
tei, openai, trees     routes and what they take and give
app         the routes as an ASGI application: limits, errors, key, CORS; and the page, the files of ui/
server      processes, signals, connections
"""
