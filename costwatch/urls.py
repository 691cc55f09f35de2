from django.urls import include, path

urlpatterns = [
    path("api/v1/", include("costwatch.api.urls")),
    path("", include("costwatch.web.urls")),
]
