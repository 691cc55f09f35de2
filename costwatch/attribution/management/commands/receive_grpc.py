"""costwatch receive_grpc [--bind 127.0.0.1:4317]"""

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from costwatch import env


class Command(BaseCommand):
    help = "Takes telemetry by OTLP/gRPC until it is told to stop."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--bind",
            default=env.text("COSTWATCH_GRPC_BIND", "127.0.0.1:4317"),
            help="HOST:PORT to listen at; COSTWATCH_GRPC_BIND",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        from costwatch.attribution.receive_grpc import CannotListen, serve

        try:
            serve(options["bind"])
        except CannotListen as error:
            raise CommandError(str(error)) from None
