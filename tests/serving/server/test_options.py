"""What `python -m serving` is told, and what it says to nonsense."""

from pathlib import Path

import pytest

from serving.server.options import read_options


def test_an_option_goes_before_its_variable_and_both_before_the_default() -> None:
    environment = {"COSTWATCH_RUNTIME_MODEL": "a", "COSTWATCH_RUNTIME_PORT": "9000"}
    options = read_options(["--model", "b"], environment)
    assert (options.model, options.port, options.host) == ("b", 9000, "127.0.0.1")
    assert (options.dtype, options.threads, options.cache_dir) == ("bfloat16", 1, None)


def test_every_option_can_be_a_variable() -> None:
    environment = {
        "COSTWATCH_RUNTIME_MODEL": "m",
        "COSTWATCH_RUNTIME_HOST": "::1",
        "COSTWATCH_RUNTIME_PORT": "0",
        "COSTWATCH_RUNTIME_DTYPE": "float32",
        "COSTWATCH_RUNTIME_THREADS": "2",
        "COSTWATCH_RUNTIME_CACHE_DIR": "/tmp/c",
        "COSTWATCH_RUNTIME_SERVED_MODEL_NAME": "n",
        "COSTWATCH_RUNTIME_MAX_BATCH_REQUESTS": "3",
        "COSTWATCH_RUNTIME_MAX_WAITING": "4",
        "COSTWATCH_RUNTIME_KV_CACHE_MIB": "5",
        "COSTWATCH_RUNTIME_DRAIN_SECONDS": "6",
        "COSTWATCH_RUNTIME_EMBEDDER": "e",
        "COSTWATCH_RUNTIME_TENSOR_PARALLEL_SIZE": "2",
        "COSTWATCH_RUNTIME_API_KEY": "k",
    }
    options = read_options([], environment)
    assert (options.model, options.host, options.port) == ("m", "::1", 0)
    assert (options.dtype, options.threads, options.cache_dir) == ("float32", 2, Path("/tmp/c"))
    assert (options.served_model_name, options.api_key) == ("n", "k")
    assert (options.max_batch_requests, options.max_waiting) == (3, 4)
    assert (options.kv_cache_mib, options.drain_seconds) == (5, 6)
    assert options.tensor_parallel_size == 2
    assert (options.embedder, read_options(["--model", "m"], {}).embedder) == ("e", "")


def test_the_key_may_lie_in_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "key"
    file.write_text("s3cret\n")
    options = read_options(["--model", "m"], {"COSTWATCH_RUNTIME_API_KEY_FILE": str(file)})
    assert options.api_key == "s3cret"
    with pytest.raises(SystemExit):
        read_options(["--model", "m"], {"COSTWATCH_RUNTIME_API_KEY_FILE": "/nowhere"})
    assert "/nowhere" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "--model"),
        (["--model", "m", "--port", "70000"], "'70000': expected a port"),
        (["--model", "m", "--threads", "0"], "'0': expected a whole number of at least 1"),
        (["--model", "m", "--dtype", "int3"], "'int3': expected one of float32, bfloat16"),
        (["--model", "m", "--gpus", "2"], "--gpus"),
    ],
)
def test_nonsense_ends_with_what_was_expected(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        read_options(arguments, {})
    assert caught.value.code == 2
    assert said in capsys.readouterr().err


def test_a_variable_that_is_nonsense_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        read_options(["--model", "m"], {"COSTWATCH_RUNTIME_PORT": "ninety"})
    assert "COSTWATCH_RUNTIME_PORT" in capsys.readouterr().err


def test_the_engine_is_configured_by_options_and_variables() -> None:
    options = read_options(
        ["--model", "m", "--quantize", "int4", "--prefix-cache", "no"],
        {"COSTWATCH_RUNTIME_SPECULATE": "ngram:4", "COSTWATCH_RUNTIME_KV_CACHE_DTYPE": "int8"},
    )
    assert (options.quantize, options.prefix_cache) == ("int4", False)
    assert (options.speculate, options.kv_cache_dtype) == ("ngram:4", "int8")


def test_a_word_that_is_none_of_an_option_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        read_options(["--model", "m", "--kv-cache-dtype", "int3"], {})
    assert "'int3': expected one of auto, int8, fp8" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        read_options(["--model", "m", "--prefix-cache", "maybe"], {})
    assert "'maybe': expected yes or no" in capsys.readouterr().err
