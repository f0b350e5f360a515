"""The mathematics that memory in recurrent networks rests on: claims, the numbers that decide them, and figures."""
