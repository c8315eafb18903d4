from django.http import JsonResponse
from django.urls import path
from django.views.decorators.csrf import csrf_exempt
from which_loop import which_loop


@csrf_exempt
async def answer(request):
    return JsonResponse(which_loop() | {"body": request.body.decode()})


urlpatterns = [path("", answer)]
