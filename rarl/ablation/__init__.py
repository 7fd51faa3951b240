"""The table that decides: SFT, RARL, their parts and their rivals on the same data, over several seeds."""
