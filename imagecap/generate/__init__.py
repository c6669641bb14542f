"""Captioning: prefill, KV cache, greedy decoding, sampling, beam search, streams and bulk jobs."""
