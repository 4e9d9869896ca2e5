export function musicPage(page, model) {}
