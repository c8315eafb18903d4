import os

from channels.generic.websocket import AsyncJsonWebsocketConsumer
from channels.routing import ProtocolTypeRouter, URLRouter
from django.core.asgi import get_asgi_application
from django.urls import path
from which_loop import which_loop

os.environ["DJANGO_SETTINGS_MODULE"] = "project.settings"


class Consumer(AsyncJsonWebsocketConsumer):
    """What one client sends, all of them receive, by the channel layer."""

    async def connect(self):
        await self.channel_layer.group_add("all", self.channel_name)
        await self.accept()

    async def disconnect(self, code):
        await self.channel_layer.group_discard("all", self.channel_name)

    async def receive_json(self, content):
        await self.channel_layer.group_send("all", {"type": "tell", "content": content})

    async def tell(self, event):
        await self.send_json(which_loop() | {"body": event["content"]})


application = ProtocolTypeRouter(
    {"http": get_asgi_application(), "websocket": URLRouter([path("all", Consumer.as_asgi())])}
)
