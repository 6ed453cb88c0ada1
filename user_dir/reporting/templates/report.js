// Drawings that answer the pointer take the place of the still ones, when they come into sight.
const specs = JSON.parse(document.getElementById("specs").textContent);
const isDark = matchMedia("(prefers-color-scheme: dark)").matches;
const enliven = async (place) => {
  const still = place.innerHTML;
  const options = { actions: false, renderer: "svg", tooltip: { theme: isDark ? "dark" : "light" } };
  try {
    await vegaEmbed(place, specs[place.dataset.figure], options);
  } catch (error) {
    place.innerHTML = still;
    console.error(error);
  }
};
const sight = new IntersectionObserver((entries) => {
  for (const { isIntersecting, target } of entries) {
    if (isIntersecting) {
      sight.unobserve(target);
      enliven(target);
    }
  }
}, { rootMargin: "200px" });
document.querySelectorAll(".drawing").forEach((place) => sight.observe(place));
