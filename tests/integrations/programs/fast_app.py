"""The same with FastAPI."""

from fastapi import FastAPI, Request
from which_loop import which_loop

app = FastAPI()


@app.post("/")
async def answer(request: Request):
    return which_loop() | {"body": (await request.body()).decode()}
