export function audioPage(page, model) {}
