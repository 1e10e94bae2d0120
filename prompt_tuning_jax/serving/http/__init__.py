"""The server's HTTP interface; the only room that imports FastAPI, uvicorn or prometheus-client."""
