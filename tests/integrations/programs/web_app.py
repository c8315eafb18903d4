"""The same with aiohttp."""

from aiohttp import web
from which_loop import which_loop


async def answer(request):
    return web.json_response(which_loop() | {"body": await request.text()})


app = web.Application()
app.router.add_post("/", answer)
