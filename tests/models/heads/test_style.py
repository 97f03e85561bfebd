import pytest
import torch
from torch.nn import functional

from models.heads.style import (
    Channels,
    StyleNetwork,
    colour_distribution,
    colour_statistics,
    recolour,
    restyle,
    sample_statistics,
    style_noise,
)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=generator(seed))


def trained(domain, spread=1.0, channels: Channels = "mixed", steps=60):
    """A style network of one domain's images [N, 3, H, W]."""
    network = StyleNetwork(8, 3, channels, generator())
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    colours = colour_distribution(colour_statistics(domain))
    for step in range(steps):
        noise = style_noise(step, torch.arange(len(domain)))
        disturbed = recolour(domain, sample_statistics(colours, noise, spread))
        loss = (network(disturbed) - domain).abs().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return network.requires_grad_(False)


def images_of(colour, contrast, seed):
    """Noise images around a domain's colour, each a little off it."""
    colours = torch.tensor(colour) + 0.2 * draw(16, 3, seed=seed)
    return contrast * draw(16, 3, 16, 8, seed=seed + 1) + colours[:, :, None, None]


@pytest.mark.parametrize("num_sources", [1, 3])
@pytest.mark.parametrize("size", [1, 3, 5])
def test_every_image_is_convolved_with_its_own_kernel(num_sources, size):
    images, biases = draw(3, 3, 6, 4), draw(3, 3, seed=1)
    kernels = draw(3, 3, num_sources, size, size, seed=2)
    found = restyle(images, kernels, biases)
    half = size // 2
    for b in range(3):
        for channel in range(3):
            sources = range(3) if num_sources == 3 else [channel]
            for y in range(6):
                for x in range(4):
                    wanted = images[b, channel, y, x] + biases[b, channel]
                    for place, source in enumerate(sources):
                        for dy in range(-half, half + 1):
                            for dx in range(-half, half + 1):
                                row, column = min(max(y + dy, 0), 5), min(max(x + dx, 0), 3)
                                weight = kernels[b, channel, place, dy + half, dx + half]
                                wanted = wanted + weight * images[b, source, row, column]
                    assert torch.allclose(found[b, channel, y, x], wanted, atol=1e-5)


@pytest.mark.parametrize("channels", ["mixed", "separate"])
def test_the_network_begins_as_the_identity_and_all_of_it_learns(channels):
    network, images = StyleNetwork(4, 3, channels, generator()), draw(2, 3, 16, 8)
    assert torch.equal(network(images), images)
    num_kernels = 9 if channels == "mixed" else 3
    assert len(network.kernel.weight) == 9 * num_kernels + 3
    torch.nn.init.normal_(network.kernel.weight, std=0.1, generator=generator())
    network(images).square().sum().backward()
    for path, parameter in network.named_parameters():
        assert parameter.grad is not None, path
        assert parameter.grad.abs().max() > 0, path


def test_restyling_is_independent_of_the_batch():
    network, images = StyleNetwork(4, 3, "mixed", generator()), draw(5, 3, 16, 8)
    torch.nn.init.normal_(network.kernel.weight, std=0.1, generator=generator())
    assert not torch.allclose(network(images), images, atol=0.1)
    assert torch.allclose(network(images)[2:3], network(images[2:3]), atol=1e-5)


def test_reset_reinitialises_the_network():
    network = StyleNetwork(4, 3, "mixed", generator())
    first = {path: value.clone() for path, value in network.state_dict().items()}
    for parameter in network.parameters():
        parameter.data.add_(1)
    network.reset(generator())
    assert all(torch.equal(value, first[path]) for path, value in network.state_dict().items())
    network.reset(generator(1))
    assert not torch.equal(network.hidden.weight, first["hidden.weight"])


def test_even_kernel_sizes_are_rejected():
    with pytest.raises(ValueError, match=r"odd number .*, got 4"):
        StyleNetwork(4, 4, "mixed", generator())


def test_recoloured_images_have_the_target_statistics():
    images, wanted = 2 * draw(4, 3, 6, 5) + 1, draw(4, 2, 3, seed=1).abs() + 0.1
    found = recolour(images, wanted)
    for b in range(4):
        for channel in range(3):
            pixels = found[b, channel].flatten()
            assert pixels.mean().item() == pytest.approx(wanted[b, 0, channel].item(), abs=1e-5)
            deviation = pixels.std(correction=0).item()
            assert deviation == pytest.approx(wanted[b, 1, channel].item(), abs=1e-5)
    own = colour_statistics(images)
    assert torch.allclose(recolour(images, own), images, atol=1e-5)


def test_constant_image_is_shifted_to_the_target_colour():
    found = recolour(torch.full((1, 3, 4, 4), 0.3), torch.full((1, 2, 3), 0.7))
    assert torch.allclose(found, torch.tensor(0.7))


def test_statistics_are_sampled_around_those_of_the_domain():
    statistics = draw(50, 2, 3) * 0.1 + torch.tensor([[1.0, 2, 3], [4, 5, 6]])
    noise = draw(20000, 2, 3, seed=1)
    drawn = sample_statistics(colour_distribution(statistics), noise, 2.0)
    assert torch.allclose(drawn.mean(0), statistics.mean(0), atol=0.01)
    assert torch.allclose(drawn.std(0), 2 * statistics.std(0, correction=0), rtol=0.05)
    assert torch.equal(
        sample_statistics(colour_distribution(statistics), noise[:1], 0.0)[0], statistics.mean(0)
    )
    wild = sample_statistics(colour_distribution(statistics), noise, 1000.0)
    assert torch.allclose(wild[:, 1].amin(0), 0.1 * statistics[:, 1].mean(0))


def test_noise_belongs_to_the_step_and_the_image():
    noise = style_noise(5, torch.tensor([3, 8, 3]))
    assert torch.equal(noise[0], noise[2])
    assert torch.equal(noise[1:2], style_noise(5, torch.tensor([8])))
    assert not torch.equal(noise[0], noise[1])
    assert not torch.equal(noise, style_noise(6, torch.tensor([3, 8, 3])))
    many = style_noise(0, torch.arange(2000))
    assert many.mean().abs() < 0.03
    assert many.std().item() == pytest.approx(1, abs=0.03)


@pytest.mark.parametrize("channels", ["mixed", "separate"])
def test_a_trained_network_restores_its_domain_and_gives_others_its_colours(channels):
    """Images it never saw, disturbed; and images of a domain of other colours."""
    domain = images_of([0.8, -0.3, 0.1], 0.5, seed=0)
    network = trained(domain, spread=4.0, channels=channels)
    fresh = images_of([0.8, -0.3, 0.1], 0.5, seed=10)
    noise = style_noise(999, torch.arange(len(fresh)))
    disturbed = recolour(
        fresh, sample_statistics(colour_distribution(colour_statistics(fresh)), noise, 4.0)
    )
    before = functional.l1_loss(disturbed, fresh)
    after = functional.l1_loss(network(disturbed), fresh)
    assert after < before / 2
    foreign = images_of([0.2, 0.4, -0.4], 0.5, seed=20)
    style = colour_statistics(domain).mean(0)
    distance = (colour_statistics(foreign).mean(0) - style).abs().max()
    restyled = (colour_statistics(network(foreign)).mean(0) - style).abs().max()
    assert restyled < distance / 3
