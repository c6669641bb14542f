export default { en: { "try.title": "Try it" }, zh: { "try.title": "试用" } };
