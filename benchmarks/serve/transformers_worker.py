"""A process that answers by transformers' generate, as engine_worker.py does by our engines."""

import sys
from typing import Any

import torch
import transformers

from benchmarks.serve.folders import folder_of
from benchmarks.serve.lines import Clock, Source, answer_lines, source_of


class Generate:
    """transformers' model of the same weights. Prompts of one batch are of one length, so that it need not pad."""

    def __init__(self, source: Source) -> None:
        folder = folder_of(source.model, source.cache_dir)
        torch.set_num_threads(source.threads)
        self._model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=source.dtype)
        self._model.eval()
        # every answer goes on to its length, with the end-of-sequence token as one like others
        self._model.generation_config.eos_token_id = None

    @torch.inference_mode()
    def answer(self, ask: dict[str, Any]) -> dict[str, float]:
        token_ids = torch.tensor(ask["prompts"])
        watch = _FirstToken(Clock())
        answers = self._model.generate(
            token_ids,
            attention_mask=torch.ones_like(token_ids),
            do_sample=False,
            max_new_tokens=ask["answer_tokens"],
            pad_token_id=0,
            stopping_criteria=[watch],
        )
        return watch.clock.report(answers[:, token_ids.shape[1] :].numel())


class _FirstToken(transformers.StoppingCriteria):
    """Never stops; notes when the first token was there."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def __call__(self, input_ids: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        self.clock.first_seconds = self.clock.first_seconds or self.clock.seconds()
        return torch.zeros(input_ids.shape[0], dtype=torch.bool)


if __name__ == "__main__":
    answer_lines(Generate(source_of(sys.argv[1:])).answer)
