"""The OpenAI HTTP surface over an engine. Knows nothing of Ray, models or how tokens are made.

The way of a request, outside in: `guard` (number, key, errors), `body` (limit, disconnects, JSON),
`http` (routes), `refusals` and `protocol` (a checked body), `service` (rights, limits) with
`intake` (tokens), `gate` (slots) and `choice` (text), back through `wire` and `stream`.

Beside it, `corpora` serves the datastore's corpora and documents, whatever implements
`rasd.datastore.Datastore`.

To serve it, make a `service.TextService` and mount `http.build_app(get_service, config)`.
"""
