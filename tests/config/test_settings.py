from src.config.settings import label_of


def test_settings_with_the_same_last_name_are_told_apart():
    pairs = [("model.key_size", 8), ("task.key_size", 16), ("model.decay", 0.9)]
    assert label_of(pairs) == "model.key_size 8, task.key_size 16, decay 0.9"
    assert label_of(pairs[1:], among=[key for key, _ in pairs]) == "task.key_size 16, decay 0.9"
