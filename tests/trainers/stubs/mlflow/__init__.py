"""Stands in for mlflow, an experiment tracker that LLM Foundry imports beside its data."""

from stand_in import stand_in

stand_in(__name__, "data", "transformers", "types", "types.llm")
